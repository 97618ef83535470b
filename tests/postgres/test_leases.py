"""Who holds a job of PostgreSQL, and for how long."""

from tests.engines.leases import *
