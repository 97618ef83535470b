"""The class form of a job."""

import typing
from collections.abc import Mapping
from types import GenericAlias
from typing import ClassVar, Generic, TypeVar, Unpack, cast

from typing_extensions import get_original_bases

from que.errors import ConfigurationError
from que.handle import Handle, Sending
from que.job import Context, Handler, Job, JobOptions
from que.options import CallOptions

ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")


class Model(Generic[ParamsT, ResultT]):
    """The class form of a job: `class EchoReverse(que.Model[Message, Reversed], job="echoReverse")`.

    An instance is one run: `self.params` and `self.context` are set, `process()` gives the result, and `finished()` is
    called at the end. `app.add(EchoReverse)` binds it. A class without a process() declares the job for clients; one
    without `job` declares none, for others to derive from. A class derived from a declared one is another job, or none.
    Declaring raises what Job raises, and ConfigurationError for options without a `job`, or for types left open.
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
            if options:
                raise ConfigurationError(f'{cls.__name__}: {", ".join(options)} without a job: add job="name"')
            return
        params_type, result_type = _types_of(cls)
        declared = Job[object, object](
            job,
            cast(type[object], params_type),
            cast(type[object], result_type),
            **options,
        )
        if cls.process is not Model[object, object].process:
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


def _types_of(cls: type) -> tuple[object, object]:
    """Return what Model's two variables stand for in `cls`, through every class between them."""
    model = _model_of(cls, {})
    left_open: object = getattr(model, "__parameters__", None)
    if len(typing.get_args(model)) != 2 or left_open:
        raise ConfigurationError(
            f"{cls.__name__} names no types: write class {cls.__name__}(que.Model[Params, Result], job=…)"
        )
    params_type, result_type = typing.get_args(model)
    return params_type, result_type


def _model_of(cls: type, known: Mapping[object, object]) -> object:
    """Return Model as `cls` derives from it, with the variables of `cls` replaced by what is `known` of them."""
    for base in get_original_bases(cls):
        kind = cast(type[object], typing.get_origin(base) or base)
        if Model not in kind.__mro__:
            continue
        filled: object = base
        if kind is not base and (open_ones := cast(GenericAlias, base).__parameters__):
            filled = cast(GenericAlias, base)[tuple(known.get(variable, variable) for variable in open_ones)]
        if kind is Model:
            return filled
        variables = getattr(kind, "__parameters__", ())
        return _model_of(kind, dict(zip(variables, typing.get_args(filled), strict=False)))
    return None
