"""The contenders: each module is one pair, a worker program and a client program that obeys `benchmarks.player`."""
