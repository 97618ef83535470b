"""One typed interface to many job queues."""
