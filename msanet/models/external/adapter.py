"""Any network that makes logits of images, as a `SegmentationNetwork`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from msanet.errors import UserError
from msanet.models.activation_checkpointing import recomputed
from msanet.models.blocks import bilinear, pad_to_multiple
from msanet.models.external.probe import Layout, classifiers, find_layout, logits_of
from msanet.models.external.sources import NetworkSource, Normalization, Options
from msanet.models.network import HeadOutput, SegmentationNetwork, TrainingOutput
from msanet.plugins import first_line

ADAPTER_OPTIONS: Options = {
    "auxiliary_weights": (tuple[float, ...] | None, None),
    "classifier": (str, ""),
    "in_channels": (Annotated[int, Field(ge=1)], 3),
}
"""Options of `model` that every network from elsewhere has, in addition to its own: the weights of its auxiliary outputs in the
loss, 0.4 each by default; the name of its classifier, where it is not found; and the number of its images' channels."""

_layouts: dict[Any, tuple[Layout, tuple[str, ...]]] = {}


class AdaptedNetwork(SegmentationNetwork):
    """A network of another library or of the user, under the contract of `SegmentationNetwork`.

    Images are padded to a multiple of `layout.multiple` and logits cropped back; coarser logits are upsampled; a tensor, tuple,
    mapping or an output with `.logits` is understood, and further maps of num_classes channels are auxiliary outputs. The only
    entry of `HeadOutput.features` is `penultimate`, the classifier's input.

    Args:
        network: (N, C, H, W) -> logits.
        layout: What `find_layout` found.
        classifier_names: Modules of the network that depend on the number of classes, the one of the logits last.
        auxiliary_weights: In the loss, one for each auxiliary output.
    """

    is_one_graph = False
    normalization: Normalization | None = None
    """Of the images that the library's pretrained weights expect."""

    def __init__(
        self, network: nn.Module, layout: Layout, classifier_names: Sequence[str], auxiliary_weights: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.layout = layout
        self.stride = layout.stride
        self.classifier_names = tuple(f"network.{name}" for name in classifier_names)
        self.auxiliary_weights = tuple(auxiliary_weights)
        classifier = network.get_submodule(classifier_names[-1]) if classifier_names else None
        channels = getattr(classifier, "in_channels", None)
        self.feature_channels = {"penultimate": channels} if channels else {}

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`."""
        if not self.feature_channels:
            return self._head(image_NCHW, {})
        features: dict[str, Tensor] = {}
        classifier = self.get_submodule(self.classifier_names[-1])
        handle = classifier.register_forward_pre_hook(lambda _, inputs: features.update(penultimate=inputs[0]))
        try:
            return self._head(image_NCHW, features)
        finally:
            handle.remove()

    def forward(self, image_NCHW: Tensor) -> Tensor | TrainingOutput:
        """See `SegmentationNetwork`; without the features, which only a wrapper asks for."""
        return self._upsampled(self._head(image_NCHW, {}), (image_NCHW.shape[2], image_NCHW.shape[3]))

    def only_size(self) -> str:
        """What to say where a network for a single size of images gets another."""
        height, width = self.layout.size
        return (
            f"and this network takes {height}x{width} only; set data.crop=[{height},{width}] and "
            f"evaluation.window=[{height},{width}], or options of model with which it takes others"
        )

    def checkpoint_activations(self) -> None:
        """Recompute the activations of each of the network's blocks, see `_blocks`."""
        for block in _blocks(self.network):
            block.forward = partial(_forward_recomputed, block, block.forward)

    def _head(self, image_NCHW: Tensor, features: dict[str, Tensor]) -> HeadOutput:
        if self.layout.fixed and tuple(image_NCHW.shape[-2:]) != self.layout.size:
            height, width = image_NCHW.shape[-2:]
            raise UserError("MSA-MODEL-515", f"found an image of {height}x{width}, {self.only_size()}")
        rows, columns = (-(-size // self.stride) for size in image_NCHW.shape[-2:])
        padded = pad_to_multiple(image_NCHW, self.layout.multiple, self.layout.least)
        size = (padded.shape[2] // self.stride, padded.shape[3] // self.stride)
        logits, auxiliary = logits_of(self.run(self.network, padded), self.layout.num_classes)
        maps = [x if x.shape[2:] == size else bilinear(x, size) for x in (logits, *auxiliary)]
        maps = [x[..., :rows, :columns] for x in maps]
        return HeadOutput(maps[0], features, tuple(maps[1:]) if self.training and self.auxiliary_weights else ())


def adapt(source: NetworkSource, num_classes: int, options: dict[str, Any]) -> AdaptedNetwork:
    """Build a network of the source and adapt it.

    Whatever mode is active (fake tensors, the meta device), the network is built with values, since constructors may compute,
    and converted afterwards.

    Raises:
        UserError: It cannot be built, is no module, or its output does not fit the contract.
    """
    options = dict(options)
    auxiliary_weights = options.pop("auxiliary_weights", None)
    named = options.pop("classifier", "")
    in_channels = _set_channels(source, options)
    key = (source.name, num_classes, repr(sorted(options.items())))
    with _disable_current_modes(), torch.device("cpu"):
        network = _built(source, num_classes, options)
        if key not in _layouts:
            with _undisturbed(network):
                layout = find_layout(source.name, network, num_classes, in_channels)
                other = lambda: _built(source, num_classes + 1, options)  # noqa: E731
                _layouts[key] = layout, classifiers(network, layout, other)
    layout, found = _layouts[key]
    if named:
        found = _named_classifier(network, named, num_classes)
    weights = [0.4] * layout.auxiliary if auxiliary_weights is None else list(auxiliary_weights)
    if len(weights) != layout.auxiliary:
        raise UserError(
            "MSA-MODEL-509",
            f"model.auxiliary_weights has {len(weights)} numbers, and '{source.name}' has {layout.auxiliary} auxiliary "
            "outputs; give one for each",
            setting="model.auxiliary_weights",
        )
    adapted = AdaptedNetwork(network, layout, found, weights)
    adapted.normalization, adapted.in_channels = source.normalization(options), in_channels
    return _converted(adapted)


def _set_channels(source: NetworkSource, options: dict[str, Any]) -> int:
    """`in_channels` under the name that the library has for it. Returns the number of channels."""
    if not source.channels:
        channels = options.pop("in_channels", 3)
        if channels != 3:
            raise UserError(
                "MSA-MODEL-782",
                f"model.in_channels is {channels}, and '{source.name}' takes images of 3 channels only; remove it, or use a "
                "network that has such an option, as those of smp: and timm:",
                setting="model.in_channels",
            )
        return 3
    if "in_channels" in options:
        options[source.channels] = options.pop("in_channels")
    _, default = source.options.get(source.channels, (int, 3))
    return int(options.get(source.channels) or default or 3)


def _built(source: NetworkSource, num_classes: int, options: dict[str, Any]) -> nn.Module:
    try:
        network = source.build(num_classes=num_classes, **options)
    except UserError:
        raise
    except Exception as error:  # a user's or a library's constructor
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise UserError(
            "MSA-MODEL-506",
            f"model.name is '{source.name}', which with ({given}) raised {type(error).__name__}: {first_line(error)}; change "
            "these options or fix that code",
            setting="model.name",
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            "MSA-MODEL-507",
            f"model.name is '{source.name}', which returned a {type(network).__name__}, expected a torch.nn.Module; "
            "fix that code",
            setting="model.name",
        )
    return network


def _named_classifier(network: nn.Module, name: str, num_classes: int) -> tuple[str, ...]:
    modules = dict(network.named_modules())
    if name in modules:
        return (name,)
    sized = [n for n, m in modules.items() if getattr(getattr(m, "weight", None), "shape", [0])[:1] == (num_classes,)]
    raise UserError(
        "MSA-MODEL-510",
        f"model.classifier is '{name}', which is not a module of the network; those with {num_classes} outputs are: "
        f"{', '.join(sized) or 'none'}",
        setting="model.classifier",
    )


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Random numbers, training mode and running statistics afterwards are those of before."""
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        yield
    for module, training in modes.items():
        module.training = training
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name in buffers and buffer.shape == buffers[name].shape:
                buffer.copy_(buffers[name])


def _converted(network: AdaptedNetwork) -> AdaptedNetwork:
    """With tensors of the mode that is active: fake, on the meta device, or as they are."""
    fake = torch._guards.detect_fake_mode()
    if fake is not None:
        convert: Callable[[Tensor], Tensor] = fake.from_tensor
    elif torch.get_default_device().type == "meta":
        return network.to("meta")
    else:
        return network
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = convert(tensor)  # type: ignore[assignment]
    return network


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The largest modules with at most an eighth of the parameters each, and with several layers."""
    most = sum(parameter.numel() for parameter in network.parameters()) / 8
    found: list[nn.Module] = []
    waiting = [network]
    while waiting:
        module = waiting.pop()
        layers = sum(1 for part in module.modules() if next(part.parameters(recurse=False), None) is not None)
        if layers < 2:
            continue
        if sum(parameter.numel() for parameter in module.parameters()) <= most:
            found.append(module)
        else:
            waiting += module.children()
    return found


def _forward_recomputed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if block.training and torch.is_grad_enabled():
        return recomputed(block, forward, *inputs, **options)
    return forward(*inputs, **options)


def check_contract(network: AdaptedNetwork, name: str) -> list[str]:
    """Run one small training step, before anything of a run is touched; the network is afterwards as before.

    Returns:
        Names of the parameters that get no gradient. They are frozen, so that no ZeRO stage waits for them.

    Raises:
        UserError: The network cannot be trained: logits of another shape, NaN, or an error of its own.
    """
    layout = network.layout
    with _undisturbed(network):
        network.train()
        image = torch.rand(2, layout.in_channels, *layout.size)
        try:
            output = network(image)
            logits, *auxiliary = (output,) if isinstance(output, Tensor) else (output.logits, *output.auxiliary)
            finite = bool(logits.isfinite().all())
            total = logits.float().square().mean() + sum(x.float().square().mean() for x in auxiliary)
            gradients = torch.autograd.grad(total, parameters := _trained(network), allow_unused=True)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                "MSA-MODEL-511",
                f"model.name is '{name}', which in training on 2 images of {layout.size[0]}x{layout.size[1]} raised "
                f"{type(error).__name__}: {first_line(error)}; fix that code or change its options",
                setting="model.name",
            ) from error
    if not finite:
        raise UserError(
            "MSA-MODEL-512",
            f"model.name is '{name}', whose logits contain NaN or infinity on a random image before the first step; check its "
            "initialization",
            setting="model.name",
        )
    without = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is None}
    unused = [key for key, p in network.named_parameters() if id(p) in without]
    for _, parameter in network.named_parameters():
        if id(parameter) in without:
            parameter.requires_grad_(False)
    return unused


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
