"""Who holds a job of Redis, and for how long."""

from tests.engines.leases import *
