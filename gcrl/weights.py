"""The networks in a model that Stable-Baselines3 has saved, read without unpickling anything.

The file is a zip of several pickles. One member is opened, policy.pth, which is a zip as torch writes it: raw numbers,
and a pickle that says which are whose. That pickle is read as a list of operations on literals. A name in it stays a
string, which is compared with a few others and never looked up, so that there is nothing that a file could call.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks import InputError
from tasks.gymnasium import brief

MOST = 1 << 26
"""Bytes that a policy may have; the optimizers and all else beside it may have three times as many."""
DTYPES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch LongStorage": torch.int64,
}


def read_weights(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """network -> name -> tensor, on the CPU. Raises InputError."""
    out: dict[str, dict[str, Tensor]] = {}
    try:
        if Path(path).stat().st_size > 4 * MOST:
            raise ValueError(f"it is larger than {4 * MOST} bytes")
        with zipfile.ZipFile(path) as model, zipfile.ZipFile(io.BytesIO(member(model, "policy.pth"))) as archive:
            for name, tensor in state_dict(archive).items():
                if not re.fullmatch(r"\w+(\.\w+)+", name, re.ASCII) or not torch.isfinite(tensor).all():
                    raise ValueError(f"{name[:80]!r} is not the name of a tensor, or its numbers are not finite")
                network, _, rest = name.partition(".")
                out.setdefault(network, {})[rest] = tensor
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever a hostile file provokes
        raise InputError(f"{path} is not a model that SB3 has saved, or is damaged: {brief(error)}") from None
    return out


def member(archive: zipfile.ZipFile, name: str, most: int = MOST) -> bytes:
    """A file in an archive. It must not be compressed, as SB3's and torch's are not: then it is as large as it says."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
        raise ValueError(f"{name[:80]} is compressed, or larger than {most} bytes")
    return archive.read(info)


def state_dict(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """What torch.save has written of one."""
    (root,) = (name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    spent = 0
    for op, arg, _ in pickletools.genops(member(archive, f"{root}data.pkl", MOST >> 8)):
        match op.name:
            case "PROTO" | "BINPERSID":  # a storage stays the tuple that describes it
                pass
            case "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "GLOBAL":
                stack.append(arg)
            case "NEWFALSE" | "NEWTRUE":
                stack.append(op.name == "NEWTRUE")
            case "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({} if op.name == "EMPTY_DICT" else ())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = marks.pop() if op.name == "TUPLE" else len(stack) - int(op.name[-1])
                stack[start:] = [tuple(stack[start:])]
            case "SETITEM" | "SETITEMS":
                start = marks.pop() if op.name == "SETITEMS" else len(stack) - 2
                keys, values = stack[start::2], stack[start + 1 :: 2]
                if not all(isinstance(key, str) for key in keys):
                    raise ValueError("a key is not a string")
                del stack[start:]
                stack[-1].update(zip(keys, values, strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "REDUCE":
                args, name = stack.pop(), stack.pop()
                stack.append(rebuilt(archive, root, name, args))
                spent += stack[-1].nbytes if isinstance(stack[-1], Tensor) else 0
                if spent > MOST:
                    raise ValueError(f"its tensors take more than {MOST} bytes")
            case "BUILD":  # the versions of the modules
                stack.pop()
            case "STOP":
                break
            case _:
                raise ValueError(f"a list of tensors has no use for {op.name}")
    (out,) = stack
    if not isinstance(out, dict) or not all(isinstance(x, Tensor) for x in out.values()):
        raise ValueError("policy.pth is not a dict of tensors")
    return out


def rebuilt(archive: zipfile.ZipFile, root: str, name: Any, args: Any) -> dict[str, Any] | Tensor:
    """What the call that the pickle asks for comes to: an empty dict, or a tensor that is all of its storage."""
    if name == "collections OrderedDict" and args == ():
        return {}
    if name != "torch._utils _rebuild_tensor_v2":
        raise ValueError(f"it asks to call {str(name)[:80]!r}")
    (_, kind, key, _, _), offset, size, stride, *_ = args
    numbers = torch.frombuffer(bytearray(member(archive, f"{root}data/{key}")), dtype=DTYPES[kind])
    contiguous = tuple(math.prod(size[i + 1 :]) for i in range(len(size[:8])))
    if offset != 0 or stride != contiguous or math.prod(size) != len(numbers):
        raise ValueError(f"the tensor in storage {key[:80]!r} is only a part of it")
    return numbers.reshape(size)
