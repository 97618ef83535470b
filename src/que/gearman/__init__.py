"""The Gearman protocol without I/O: no sockets, no asyncio, no clock."""
