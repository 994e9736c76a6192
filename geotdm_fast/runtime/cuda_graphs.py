"""A CUDA graph of a function of tensors: recorded once, then replayed on other values without its Python."""

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from geotdm_fast.runtime.tensor_cache import normal_tensors

# Makes a graph of a call: what the call returned, and what runs it again on the same memory.
Recorder = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]


class Captured:
    """The recording of one call `function(inputs)`; `replay` launches its kernels again without its Python.

        captured = Captured(function, inputs)
        results = captured.replay(other_inputs)

    function: called a few times before it is recorded. It may read and write its inputs, tensors that it makes, and
        tensors that stay at their addresses as long as this object lives. It must not wait for the device (`.item()`,
        an `if` on a tensor, a copy to the host)
    inputs: tensors and other values in tuples, named tuples, lists and dictionaries. The tensors are copied; the
        copies, `self.inputs` in the same structure, keep their addresses. Where the function changes them, a replay
        without inputs goes on from the changed values
    state: further tensors that the function changes. After recording they hold what they held before
    generators: random generators that the function draws from, beside the default one of the device. Every replay draws
        new numbers: those that the function itself would draw after the same seed. Recording leaves all generators as
        they were
    record: how the recording is made; default: a CUDA graph on the device of the first tensor

    `self.results` is what the function returned. Every replay overwrites the tensors in it, so copy what must last. A
    replay runs on the current stream, and waits for earlier replays on other streams. Two threads must not use one
    object at the same time. Raises ValueError where `inputs` hold no tensor, and what the function or its recording
    raises.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        inputs: Any,
        *,
        state: Sequence[Tensor] = (),
        generators: Sequence[torch.Generator] = (),
        record: Recorder | None = None,
    ):
        leaves, spec = tree_flatten(inputs)
        tensors = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
        if not tensors:
            raise ValueError("Captured: inputs must hold at least one tensor, got none")
        self.signature = signature(inputs)
        with normal_tensors():
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.inputs = tree_unflatten([copies.get(id(leaf), leaf) for leaf in leaves], spec)
        self._static = list(copies.values())
        self.device = self._static[0].device
        self._stream: torch.cuda.Stream | None = None
        self.wanted: Hashable = None  # by which a cache finds it
        before = [tensor.detach().clone() for tensor in state]
        record = record or CUDAGraphRecorder(self.device, generators)
        try:
            with normal_tensors():
                self.results, self._replay = record(lambda: function(self.inputs))
        finally:
            with torch.no_grad():
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)
        self.load(inputs)

    def load(self, inputs: Any) -> None:
        """Copy the tensors of `inputs` over `self.inputs`.

        Raises ValueError unless structure, shapes, dtypes and devices are those of the recording, and values that are
        no tensors are equal.
        """
        self._wait_for_other_streams()
        leaves, _ = tree_flatten(inputs)
        came = signature(inputs)
        if came != self.signature:
            raise ValueError(f"Captured: inputs must be as captured: {_difference(self.signature, came)}")
        given = list({id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}.values())
        with torch.no_grad():
            torch._foreach_copy_(self._static, given)

    def replay(self, inputs: Any = None) -> Any:
        """Launch the recorded kernels and return `self.results`.

        inputs: loaded before; None: the recording goes on from what `self.inputs` holds
        """
        if inputs is None:
            self._wait_for_other_streams()
        else:
            self.load(inputs)
        self._replay()
        return self.results

    def _wait_for_other_streams(self) -> None:
        if self.device.type != "cuda":
            return
        stream = torch.cuda.current_stream(self.device)
        if stream != self._stream:
            if self._stream is not None:
                stream.wait_stream(self._stream)
            self._stream = stream


class CUDAGraphRecorder:
    """Records a call as a CUDA graph, on a stream of its own.

    The function is called three times before, so that kernels are compiled and chosen outside of the graph. The default
    generator of the device, and `generators`, are then put back to where they were.

    shares_memory: whether all graphs of this recorder have the memory that they work in together. Then none of their
        calls may return a tensor, and two of them may not run at the same time, on two streams
    """

    WARM_UP = 3

    def __init__(
        self, device: torch.device, generators: Sequence[torch.Generator] = (), *, shares_memory: bool = False
    ):
        if device.type != "cuda":
            raise ValueError(f"Captured: inputs must be on cuda, got {device}")
        self.device, self.generators, self.shares_memory = device, generators, shares_memory
        self._shared: tuple[torch.cuda.Stream, Any] | None = None

    def __call__(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        with torch.cuda.device(self.device):
            default = torch.cuda.default_generators[torch.cuda.current_device()]
            states = [(generator, generator.get_state()) for generator in {default, *self.generators}]
            (side, pool), current = self._stream_and_pool(), torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph()
            for generator in {*self.generators} - {default}:  # that one a capture registers by itself
                graph.register_generator_state(generator)
            try:
                side.wait_stream(current)
                with torch.cuda.stream(side):
                    for _ in range(self.WARM_UP):
                        call()
                current.wait_stream(side)
                # torch.cuda.graph stays on its stream where a capture fails. Other threads may go on allocating, as
                # those that load data do.
                in_graph = torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local")
                with torch.cuda.stream(side), in_graph:
                    results = call()
                current.wait_stream(side)
            finally:
                for generator, value in states:
                    generator.set_state(value)
        return results, graph.replay

    def _stream_and_pool(self) -> tuple[torch.cuda.Stream, Any]:
        """Where to capture: freed memory of a pool goes to the stream alone that it was allocated on."""
        if not self.shares_memory:
            return torch.cuda.Stream(), None
        if self._shared is None:
            self._shared = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        return self._shared


class CaptureCache:
    """Recordings (`Captured`) by function and kind of input: made when first asked for, lent to one user at a time.

    capacity: how many recordings are kept beside those that are lent; the least recently used one goes first. Each
        holds its inputs, its results and the function's intermediate tensors, which bounds the memory
    record: as for `Captured`
    shares_memory: whether all have what their functions make in the same memory, see `CUDAGraphRecorder`; then it is at
        most the sum of what each would take alone, beside `capacity` times inputs. Generators do not go with it
    made: how many recordings were made since there were none

    A copy of a cache, by `copy` or `pickle`, is empty, since a CUDA graph is bound to the memory of its process. Raises
    ValueError for a capacity below 1.
    """

    def __init__(self, capacity: int = 4, record: Recorder | None = None, *, shares_memory: bool = False):
        if capacity < 1:
            raise ValueError(f"CaptureCache: capacity must be at least 1, got {capacity}")
        self.capacity, self.record, self.shares_memory = capacity, record, shares_memory
        self.made = 0
        self._sharing: Recorder | None = None
        self._using: weakref.WeakSet[Captured] = weakref.WeakSet()  # what `_sharing` made and somebody has
        self._known: OrderedDict[Hashable, Captured] = OrderedDict()

    def borrow(
        self,
        function: Callable[[Any], Any],
        inputs: Any,
        key: Hashable = (),
        generators: Sequence[torch.Generator] = (),
        state: Sequence[Tensor] = (),
    ) -> Captured:
        """A recording of `function` that holds `inputs`, for the caller alone until `give_back`.

        A kept recording is taken where function, `key`, torch's settings, generators and the signature of the inputs
        agree; otherwise a new one is made.
        key: whatever else decides which kernels the function launches
        generators, state: as `Captured` takes them; the same tensors of state at every call with this function and key
        Raises ValueError for generators where memory is shared, and what `Captured` raises.
        """
        if self.shares_memory and generators:
            raise ValueError(
                f"CaptureCache: generators must be left out where shares_memory is true, got {len(generators)}"
            )
        wanted = (function, key, _settings(), signature(inputs), tuple(generators))
        found = self._known.pop(wanted, None)
        if found is None:
            self._keep(self.capacity - 1)  # before there is another
            record = self._sharing_recorder(inputs) if self.shares_memory else self.record
            found = Captured(function, inputs, state=state, generators=generators, record=record)
            found.wanted = wanted
            self.made += 1
            self._using.add(found)
        else:
            found.load(inputs)
        return found

    def give_back(self, captured: Captured) -> None:
        """Keep a borrowed recording for the next `borrow` of its kind."""
        replaced = self._known.pop(captured.wanted, None)
        if replaced is not None and replaced is not captured:
            _wait_for(replaced)  # two chains had one each
            del replaced
        self._known[captured.wanted] = captured
        self._keep(self.capacity)

    def _keep(self, count: int) -> None:
        """Drop the least recently used recordings until `count` are left."""
        while len(self._known) > count:
            _, oldest = self._known.popitem(last=False)
            _wait_for(oldest)
            del oldest

    def _sharing_recorder(self, inputs: Any) -> Recorder:
        if self.record is not None:
            return self.record
        # torch gives a pool up with its last graph, and takes its handle for no other graph then.
        if self._sharing is None or not self._using:
            device = next(leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
            self._sharing = CUDAGraphRecorder(device, shares_memory=True)
        return self._sharing

    def clear(self) -> None:
        """Let all captures go that are not lent."""
        self._keep(0)
        self.made = 0

    def __len__(self) -> int:
        return len(self._known)

    def __reduce__(self) -> tuple:
        return functools.partial(CaptureCache, shares_memory=self.shares_memory), (self.capacity, self.record)


def _wait_for(captured: Captured) -> None:
    """Wait until the device is done with a recording that is dropped: its memory must not be reused before."""
    if captured.device.type == "cuda":
        torch.cuda.synchronize(captured.device)


def signature(inputs: Any) -> tuple:
    """What two inputs must have in common to share a recording.

    They agree in structure, in shape, dtype and device of every tensor, in which leaves are the same tensor, and in the
    values of everything else.
    """
    leaves, spec = tree_flatten(inputs)
    first: dict[int, int] = {}
    parts = []
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            same = first.setdefault(id(leaf), place)
            parts.append((tuple(leaf.shape), leaf.dtype, leaf.device, same))
        else:
            parts.append(leaf)
    return spec, tuple(parts)


def _settings() -> tuple:
    """The settings of torch that decide which kernels an operation launches."""
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    fp32 = torch.backends.cuda.matmul.fp32_precision
    return torch.is_grad_enabled(), autocast, fp32, torch.are_deterministic_algorithms_enabled()


def _difference(wanted: tuple, came: tuple) -> str:
    """The first difference between two signatures, in words."""
    if wanted[0] != came[0]:
        one, other = (" ".join(str(spec).split()) for spec in (wanted[0], came[0]))
        return f"structure {one}, got {other}"
    pairs = zip(wanted[1], came[1], strict=True)
    place, (one, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"leaf {place} {_written(one)}, got {_written(other)}"


def _written(part: object) -> str:
    if not (isinstance(part, tuple) and len(part) == 4):
        return repr(part)
    shape, dtype, device, same = part
    return f"{list(shape)} {dtype} on {device} (the same tensor as leaf {same}, or new)"
