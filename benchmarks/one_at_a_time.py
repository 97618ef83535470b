"""How many typed jobs a second does one caller get done that awaits each before the next?"""

from benchmarks import throughput
from benchmarks.answer import Answer
from benchmarks.measure import Scale

TITLE = "One at a time"


def run(scale: Scale) -> Answer:
    return throughput.run(scale, mode="lone")
