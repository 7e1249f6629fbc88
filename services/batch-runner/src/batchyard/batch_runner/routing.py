"""Which pool takes which line of a batch: one for all of them, or each line's own where a batch may name several."""

from collections.abc import Awaitable, Callable

from batchyard.batch_runner.validate import MAX_PROBLEMS, shortened
from batchyard.common.config import is_pattern
from batchyard.common.contracts.batches import BatchProblem

MAX_MODELS = 16
"""Models in one batch: joining its results holds a stream of each open."""

PoolOf = Callable[[str], Awaitable[str | None]]
NameOf = Callable[[str], str]
MayUse = Callable[[str], bool]


class Routing:
    """Routes the lines of one batch.

    The batch's model is the one it was given, else the first line's, and every line has to fit it. Where none was
    given and batches may be mixed, a line for another model makes the batch one of several.

    Args:
        model: The model that was given, if any.
        pool_of: Tells which pool serves a model name, if any does.
        name_of: Tells the one name under which a model is shown, of the several that clients may use.
        may_use: Tells whether a model may be named at all.
        may_mix: Whether lines may name several models when none was given.
    """

    def __init__(
        self,
        model: str | None,
        pool_of: PoolOf,
        name_of: NameOf,
        *,
        may_mix: bool,
        may_use: MayUse = lambda _: True,
    ) -> None:
        self._given = model
        self._pool_of = pool_of
        self._name_of = name_of
        self._may_mix = may_mix and model is None
        self._model: str | None = None
        self._pool: str | None = None
        self._pools: dict[str, str | None] = {}
        self._may_use = may_use
        self._refused: dict[str, bool] = {}
        self._unnamed: list[int] = []
        self._is_mixed = False

    @property
    def model(self) -> str | None:
        """The model of the whole batch; None when its lines name several."""
        return None if self._is_mixed else self._model

    @property
    def pool(self) -> str | None:
        """The pool of the whole batch; None when its lines name several models."""
        return None if self._is_mixed else self._pool

    @property
    def models(self) -> dict[str, str] | None:
        """The pool of every model that the lines name; None when there is one model."""
        if not self._is_mixed:
            return None
        return {name: pool for name, pool in self._pools.items() if pool is not None}

    @property
    def shown_models(self) -> tuple[str, ...]:
        """The names under which the models of the lines are shown."""
        names = self.models
        if names is None:
            return () if self._model is None else (self._model,)
        return tuple(sorted({self._name_of(name) for name in names}))

    @property
    def names(self) -> dict[str, str]:
        """What a model is shown as that the lines call by another name."""
        names = ((said, self._name_of(said)) for said in self.models or ())
        return {said: shown for said, shown in names if said != shown}

    async def route(self, number: int, named: str | None) -> str | BatchProblem:
        """The pool for the line `number` that names a model or none, or why there is none."""
        said = named if named is not None else self._given
        if said is not None and self._is_refused(said):
            return _refused(number, said)
        model = await self._settled_model(named)
        if model is None:
            return _problem(number, "invalid_request", "Model parameter is required.")
        if self._pool is None:
            return _unsupported(number, model)
        if named is None:
            if self._may_mix and len(self._unnamed) < MAX_PROBLEMS:
                self._unnamed.append(number)
            return self._pool
        return await self._fitting_pool(number, named, model)

    def problems(self) -> list[BatchProblem]:
        """What is wrong with the lines together, once all of them are routed."""
        if not self._is_mixed:
            return []
        problems = [_problem(number, "invalid_request", "Model parameter is required.") for number in self._unnamed]
        count = len({self._name_of(name) for name in self.models or ()})
        if count > MAX_MODELS:
            message = f"The batch names {count} models; at most {MAX_MODELS} are allowed. Split the file."
            problems.append(BatchProblem(code="too_many_models", message=message, param="body.model"))
        return problems

    async def _settled_model(self, named: str | None) -> str | None:
        """The batch's model, by now; a name that nobody serves is no batch's but that line's."""
        if self._model is None:
            name = self._given if self._given is not None else named
            if name is None:
                return None
            pool = await self._lookup(name)
            if pool is None:
                return name
            self._model, self._pool = self._name_of(name), pool
        return self._model

    async def _fitting_pool(self, number: int, named: str, model: str) -> str | BatchProblem:
        assert self._pool is not None
        if named == model or self._name_of(named) == model:
            self._pools.setdefault(named, self._pool)
            return self._pool
        pool = await self._lookup(named)
        if pool is None:
            return _unsupported(number, named)
        if pool != self._pool or is_pattern(pool):
            if not self._may_mix:
                return _problem(
                    number,
                    "mismatched_model",
                    f"The model '{shortened(named)}' for this request does not match the rest of the batch. "
                    "Each batch must contain requests for a single model.",
                )
            self._is_mixed = True
        return pool

    def _is_refused(self, model: str) -> bool:
        if model not in self._refused:
            self._refused[model] = not self._may_use(model)
        return self._refused[model]

    async def _lookup(self, model: str) -> str | None:
        if model not in self._pools:
            self._pools[model] = await self._pool_of(model)
        return self._pools[model]


def _problem(number: int, code: str, message: str) -> BatchProblem:
    return BatchProblem(code=code, message=message, param="body.model", line=number)


def _refused(number: int, model: str) -> BatchProblem:
    return _problem(number, "model_not_allowed", f"This key or its team may not use the model '{shortened(model)}'.")


def _unsupported(number: int, model: str) -> BatchProblem:
    return _problem(
        number, "model_not_found", f"The provided model '{shortened(model)}' is not supported by the Batch API."
    )
