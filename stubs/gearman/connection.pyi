from array import array
from socket import socket
from typing import NoReturn

class GearmanConnection:
    gearman_socket: socket
    _incoming_buffer: array[int]
    def read_data_from_socket(self, bytes_to_read: int = 4096) -> int: ...
    def throw_exception(self, message: str | None = None, exception: Exception | None = None) -> NoReturn: ...
