# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a check of a pair found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..near_names import asserted, near_name


@dataclass
class Problem:
    """Something that does not fit.

    Attributes:
        key: Where to change it, a path of keys of the config.
        message: What is wrong.
    """

    key: str
    message: str


@dataclass
class NetworkCost:
    """A network and what it costs.

    Attributes:
        side: ``'student'`` or ``'teacher'``.
        name: Class of its backbone.
        parameters: Number of parameters.
        flops: Multiply-adds of a forward pass of one image, as the model zoo
            counts them; None if they could not be counted.
        weights: Where its weights are from.
    """

    side: str
    name: str
    parameters: int
    flops: int | None
    weights: str


@dataclass
class Record:
    """What a recorder caught.

    Attributes:
        side: ``'student'`` or ``'teacher'``.
        recorder: Its name.
        source: What it records.
        shape: Shape of the record with the batch first, or its type.
    """

    side: str
    recorder: str
    source: str
    shape: tuple[int, ...] | str


@dataclass
class Tokens:
    """What connectors make of a record.

    Attributes:
        side: ``'student'`` or ``'teacher'``.
        recorder: Name of the recorder.
        connector: Name of the connector or of the chain of them.
        prefix: Prefix tokens that are left out; None for a map.
        grid: Height and width of the token grid.
        superpixels: Rows and columns of superpixels.
        shape: Shape of the result, or its type.
    """

    side: str
    recorder: str
    connector: str
    prefix: int | None = None
    grid: tuple[int, int] | None = None
    superpixels: tuple[int, int] | None = None
    shape: tuple[int, ...] | str = ()


@dataclass
class LossTerm:
    """A loss on the batch.

    Attributes:
        name: Its name in the log.
        weight: ``loss_weight``, None where the loss has none.
        value: Value, weight included.
        gradients: Norm of its gradient at the output of a student's
            recorder, by the recorder's name; 0 where it does not reach.
    """

    name: str
    weight: float | None
    value: float
    gradients: dict[str, float]


@dataclass
class Step:
    """Time and memory of training steps.

    Attributes:
        device: Where they ran.
        batch_size: Images of a step.
        milliseconds: Median time of a step.
        memory_mib: Peak memory, MiB: of the device's tensors on CUDA, of the
            whole process on a CPU.
        images: Images of an epoch, None if unknown.
        epochs: Epochs of the schedule, None if it has none.
    """

    device: str
    batch_size: int
    milliseconds: float
    memory_mib: float
    images: int | None
    epochs: int | None

    @property
    def images_per_second(self) -> float:
        """Throughput of one process."""
        return 1e3 * self.batch_size / self.milliseconds

    @property
    def epoch_seconds(self) -> float | None:
        """Estimated time of an epoch of one process."""
        if self.images is None:
            return None
        return self.images / self.images_per_second


@dataclass
class PairReport:
    """All that a check found.

    Attributes:
        config: Name of the config.
        size: Height and width of the images, in pixels.
        batch_size: Random images that were used.
        networks: Both networks.
        records: What the recorders caught.
        tokens: What the connectors made of it.
        losses: The losses.
        step: Time and memory, None where the pair does not train.
        problems: What does not fit.
        notes: What a reader should know.
    """

    config: str
    size: tuple[int, int]
    batch_size: int
    networks: list[NetworkCost] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    losses: list[LossTerm] = field(default_factory=list)
    step: Step | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def problem(self, key: str, message: object) -> None:
        """Note a problem once; of a misspelt name with the nearest one."""
        text = ' '.join(str(message).split())
        if isinstance(message, Exception):
            if not isinstance(message, (ValueError, FileNotFoundError)):
                text = f'{type(message).__name__}: {text}'
            text += near_name(message) or asserted(message)
        found = Problem(key, text)
        if found not in self.problems:
            self.problems.append(found)
