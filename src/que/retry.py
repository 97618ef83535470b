"""When a job that failed runs again: a pure decision, acted on by the engine or by the worker."""

import msgspec

from que.errors import ConfigurationError, Reject, RetryAfter


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Run a job at most `attempts` times in all, the first run included, while it raises one of `on`.

    Before run n + 1 it waits `base * factor ** (n - 1)` seconds, at most `max`; of that a random share of up to
    `jitter` (0 to 1) is left out, so that jobs which failed together do not come back together. A run whose worker died
    counts where the engine counts it. RetryAfter is obeyed within `attempts`, whatever `on` says; Reject never retries.
    Raises ConfigurationError for values that cannot be meant.
    """

    attempts: int = 3
    base: float = 1.0
    factor: float = 2.0
    max: float = 3600.0
    jitter: float = 0.25
    on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"Retry(attempts={self.attempts!r}): expected at least 1, the first run included")
        for name, least, most in _BOUNDS:
            value: float = getattr(self, name)
            if not least <= value <= most:
                raise ConfigurationError(f"Retry({name}={value!r}): expected from {least:g} to {most:g}")

    def wait(self, attempt: int, error: BaseException, chance: float | None = None) -> float | None:
        """Return the seconds to wait before the run after run number `attempt`, which raised `error`; None for never.

        `chance`: from 0 to 1, decides the jitter; random if left out.
        """
        if attempt >= self.attempts or isinstance(error, Reject):
            return None
        if isinstance(error, RetryAfter):
            return error.seconds
        if not isinstance(error, self.on):
            return None
        if chance is None:
            import random  # only failures pay for it

            chance = random.random()
        try:
            seconds = min(self.base * self.factor ** (attempt - 1), self.max)
        except OverflowError:
            seconds = self.max
        return seconds * (1 - self.jitter * chance)


_A_YEAR = 366 * 86_400.0
_BOUNDS = (("base", 0.0, _A_YEAR), ("factor", 1.0, 1e6), ("max", 0.0, _A_YEAR), ("jitter", 0.0, 1.0))

# A job without a policy of its own: an error ends it. RetryAfter and lost workers are borne with this many times.
PATIENCE = 10
NO_RETRY = Retry(attempts=PATIENCE, on=())
