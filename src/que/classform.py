"""The class form of a job."""

import typing
from typing import ClassVar, Generic, TypeVar, Unpack, cast

from que.errors import ConfigurationError
from que.handle import Handle, Sending
from que.job import Context, Handler, Job, JobOptions
from que.options import CallOptions

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")


class Model(Generic[ParamsT, ResultT]):
    """The class form of a job: `class EchoReverse(que.Model[Message, Reversed], job="echoReverse")`.

    An instance is one run: `self.params` and `self.context` are set, `process()` gives the result, and `finished()` is
    called at the end. `app.add(EchoReverse)` binds it.
    """

    job: ClassVar[Job[object, object]]

    def __init_subclass__(
        cls,
        *,
        job: str | None = None,
        **options: Unpack[JobOptions],
    ) -> None:
        super().__init_subclass__()
        if job is None:
            return
        params_type, result_type = _model_types(cls)
        declared = Job[object, object](
            job,
            cast(type[object], params_type),
            cast(type[object], result_type),
            **options,
        )
        declared.work_by(Handler(cls._run, is_async=True, wants_context=True))
        cls.job = declared

    def __init__(self, params: ParamsT, context: Context[object] | None = None) -> None:
        self.params = params
        self.context: Context[object] = (
            context if context is not None else Context[object](type(self).__name__, state=None)
        )

    async def process(self) -> ResultT:
        """Return the result for `self.params`."""
        raise NotImplementedError(f"{type(self).__name__} has no process()")

    async def finished(self, error: BaseException | None) -> None:
        """Called once process() has ended, with its error or None; an error raised here fails the job."""

    @classmethod
    async def _run(cls, params: object, context: Context[object]) -> object:
        model = cls(cast(ParamsT, params), context)
        try:
            result = await model.process()
        except BaseException as error:
            await model.finished(error)
            raise
        await model.finished(None)
        return result

    @classmethod
    def declaration(cls) -> Job[ParamsT, ResultT]:
        """Return the Job that this class declares; raises ConfigurationError if it names none."""
        if "job" not in cls.__dict__:
            raise ConfigurationError(f'{cls.__name__} declares no job: class {cls.__name__}(que.Model[…], job="name")')
        return cast(Job[ParamsT, ResultT], cls.job)

    @classmethod
    def submit(cls, params: ParamsT, /, **options: Unpack[CallOptions]) -> Handle[ResultT]:
        """Submit the job that this class declares, as Job.submit() does."""
        return cls.declaration().submit(params, **options)

    @classmethod
    def send(cls, params: ParamsT, /, **options: Unpack[CallOptions]) -> Sending:
        """Send the job that this class declares, as Job.send() does."""
        return cls.declaration().send(params, **options)


def _model_types(cls: type) -> tuple[object, object]:
    for base in getattr(cls, "__orig_bases__", ()):
        if typing.get_origin(base) is Model:
            params_type, result_type = typing.get_args(base)
            return params_type, result_type
    raise ConfigurationError(f"{cls.__name__} names no types: class {cls.__name__}(que.Model[Params, Result], job=…)")
