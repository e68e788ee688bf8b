"""Crops, reflections and test views of whole batches at once, on the device the images are on.

Images are uint8 (N, H, H, 3), channels last, as in `alexnet_lib.dataset.Split`. Random numbers are drawn apart
from their use and on the CPU, so CPU and GPU runs see the same crops, and a batch may be split in any way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet_lib.recipes import StudyError, unknown

LARGE = 96
"""Side in pixels from which a CPU copies crops one by one in less time than it gathers the rows of all."""
CACHED = 2**20
"""Input values (4 MB) that stay in a CPU core's caches from one step of `normalise` to the next, and from there to
the network: what a CPU makes at a time."""


def offsets(n: int, border: int, generator: torch.Generator) -> Tensor:
    """Draw the places of ``n`` random crops: int64 (n, 2), rows (y, x), each uniform on 0..border inclusive.

    Both ends are included as in the 2012 code, which has 33 * 33 places for 224 of 256 pixels where P §4.1
    counts 32 * 32, and 9 * 9 for 24 of 32. One place per image is what its CIFAR-10 nets do; its ImageNet
    nets share one among 32 images (``crop_chunk`` in the 2012 code).

    Args:
        n: number of crops.
        border: what a crop leaves of the image on each axis, H - size in pixels.
        generator: a CPU generator; one call or several in a row draw the same numbers.
    """
    return torch.randint(0, border + 1, (n, 2), generator=generator)


def flips(n: int, generator: torch.Generator) -> Tensor:
    """Draw which of ``n`` images to reflect: bool (n,), true with probability 1/2 (P §4.1)."""
    return torch.randint(0, 2, (n,), generator=generator).bool()


def crop(images: Tensor, offsets: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Cut ``images[i, y : y + size, x : x + size]`` out of each image and reflect the chosen ones.

    Args:
        images: uint8 (n, H, H, 3).
        offsets: int64 (n, 2), upper left corner (y, x) of each crop, 0..H - size; on the images' device.
        size: side of the crops in pixels.
        flip: bool (n,), the crops to reflect left to right; none by default; on the images' device.

    Returns:
        uint8 (n, size, size, 3), contiguous.

    Raises:
        StudyError: the crop is larger than the image, or, on the CPU, leaves it. On a GPU the offsets are not
            checked, because the check would wait for the device.
    """
    n, height, width, channels = images.shape
    _check_size(size, height)
    if not n:  # a process may have no part of the last batch
        return images[:, :size, :size]
    if not offsets.is_cuda and not (offsets.min() >= 0 and offsets.max() <= height - size):
        raise StudyError(f"crop offsets must be 0 to {height - size} for {size} of {height} pixels")
    if size >= LARGE and images.device.type == "cpu":
        crops = images.new_empty((n, size, size, channels))
        reflected = [False] * n if flip is None else flip.tolist()
        for image, (y, x), turned, out in zip(images, offsets.tolist(), reflected, crops, strict=True):
            cut = image[y : y + size, x : x + size]
            out.copy_(cut.flip(1) if turned else cut)
        return crops
    each, steps = (torch.arange(count, device=images.device) for count in (n, size))
    # A row of a crop is a run of pixels in memory: gathering runs copies 24 to 224 pixels at a time, where
    # gathering pixels copies three bytes at a time.
    starts = n * height * width - size + 1
    runs = images.contiguous().as_strided((starts, size * channels), (channels, 1))
    rows = (each[:, None] * height + offsets[:, :1] + steps) * width + offsets[:, 1:]
    crops = runs.index_select(0, rows.flatten()).view(n, size, size, channels)
    if flip is None:
        return crops
    # Reflecting all and picking whole images is faster than choosing pixel by pixel, and unlike reflecting
    # only the chosen ones it need not wait for a GPU to count them.
    return torch.cat((crops, crops.flip(2))).index_select(0, each + n * flip)


def normalise(images: Tensor, mean: Tensor, scale: float | Tensor) -> Tensor:
    """Turn pixels into network inputs, ``(images - mean) * scale``.

    Args:
        images: uint8 (n, H, H, 3).
        mean: float32 (H, H, 3), the mean image's central crop of that size, whatever the offsets of the crops
            (as in the 2012 code); or (3,), the channels' means.
        scale: 1 for the raw inputs of P §2; or float32 (3,), one for each channel.

    Returns:
        float32 (n, 3, H, H) in ``channels_last`` memory.
    """
    one = images.shape[1:]
    # An image of factors multiplies three times as fast as three that repeat with every pixel.
    mean = mean.expand(one).contiguous()
    scale = scale.expand(one).contiguous() if isinstance(scale, Tensor) else scale
    inputs = torch.empty(images.shape, device=images.device)
    # A CPU does all three steps to a few images while they lie in its caches.
    some = max(1, CACHED // one.numel() if images.device.type == "cpu" else len(images))
    for out, pixels in zip(torch.split(inputs, some), torch.split(images, some), strict=True):
        out.copy_(pixels).sub_(mean).mul_(scale)
    return inputs.permute(0, 3, 1, 2)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """Return the central squares of images (n, H, H, 3) as a view; an odd pixel is left right and below.

    The mean image's central crop, subtracted from every crop whatever its offset, comes from here too.
    """
    _check_size(size, images.shape[1])
    start = (images.shape[1] - size) // 2
    return images[:, start : start + size, start : start + size]


LIGHTING = (
    torch.tensor([0.2175, 0.0188, 0.0045]),
    torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]),
)
"""ImageNet's colour components as most copies pass them on: variances of pixels in 0..1, and directions."""


def colour_basis(kind: str, colours: tuple[Tensor, Tensor]) -> Tensor:
    """Return what turns three standard normals an image into its colour shift (P §4.1).

    ``normals (n, 3) @ basis`` are the shifts (n, 3) of R, G and B in grey levels.

    - ``printed``: 0.1 times the eigenvalue along each component, as the paper writes. Of pixels in 0..1, since
      eigenvalues of 0..255 would give shifts of more than a thousand grey levels.
    - ``coded``: 0.1 times its square root, as the 2012 code does.
    - ``lighting``: the common copy of the paper's formula, with ImageNet's components whatever the data.

    Args:
        kind: one of the above.
        colours: variances and directions of the training set, as ``Dataset.colours`` has them.

    Returns:
        float32 (3, 3), on the CPU.
    """
    variances, directions = colours
    if kind == "lighting":
        variances, directions = LIGHTING[0] * 255**2, LIGHTING[1]
    spread = 0.1 * variances.sqrt() if kind == "coded" else 0.1 * variances / 255
    return (directions * spread).T.float()


VIEWS = ("centre", "corners")


def views(images: Tensor, size: int, which: str) -> Tensor:
    """Cut the views that a test averages over: uint8 (V, n, size, size, 3) of images uint8 (n, H, H, 3).

    With ends 0 and H - size on each axis, and (H - size) // 2 for the centre:

    - ``centre``: 1 view, the central crop.
    - ``corners``: 10 views, upper left, upper right, lower left, lower right and centre, then the reflections
      of these five in the same order (P §4.1; the CIFAR-10 nets of cuda-convnet).

    Raises:
        StudyError: unknown views, or a size above that of the images.
    """
    if which not in VIEWS:
        raise unknown("views", which, VIEWS)
    _check_size(size, images.shape[1])
    end = images.shape[1] - size
    middle = end // 2
    places = {
        "centre": [(middle, middle)],
        "corners": [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)],
    }[which]
    cut = torch.stack([images[:, y : y + size, x : x + size] for y, x in places])
    return torch.cat((cut, cut.flip(3))) if which == "corners" else cut


def _check_size(size: int, height: int) -> None:
    if not 0 < size <= height:
        raise StudyError(f"crop of {size} pixels out of images of {height}: take 1 to {height}")
