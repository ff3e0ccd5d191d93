"""The stand-in for torch's compiler must leave no trace; each case needs a process of its own."""

from __future__ import annotations

import subprocess
import sys

START = "import sys, warnings\nfrom jstc.core.torchvision_import import import_torchvision\n"


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_compiler_is_not_loaded_but_works_afterwards() -> None:
    _run(
        "models = import_torchvision('torchvision.models')\n"
        "assert models.get_model('squeezenet1_1', weights=None)\n"
        "assert not [name for name in sys.modules if name.startswith('torch._dynamo')]\n"
        "import torch, torchvision\n"
        "boxes = torch.tensor([[0, 0., 0., 4., 4.]])\n"
        "out = torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2)\n"
        "assert out.shape == (1, 1, 2, 2)\n"
        "forwarded = sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')\n"
        "import torch._dynamo.utils as real\n"
        "assert forwarded == real.is_compile_supported('cpu')\n"
        "assert real.__file__ and hasattr(real, 'counters')\n"
        "compiled = torch.compile(lambda x: x * 2 + 1, backend='eager')\n"
        "assert compiled(torch.ones(3)).tolist() == [3.0] * 3\n"
    )


def test_what_is_loaded_already_is_used() -> None:
    _run(
        "import torch._dynamo\n"
        "before = sys.modules['torch._dynamo.utils']\n"
        "assert import_torchvision('torchvision.transforms.v2').__name__ == 'torchvision.transforms.v2'\n"
        "assert sys.modules['torch._dynamo.utils'] is before\n"
    )


def test_a_version_that_wants_more_of_the_compiler_is_imported_plainly() -> None:
    _run(
        "from importlib.abc import MetaPathFinder\n"
        "class Picky(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torchvision.ops.roi_align' and 'torch._dynamo' not in sys.modules:\n"
        "            import torch._dynamo.utils as utils\n"
        "            utils.counters\n"
        "sys.meta_path.insert(0, Picky())\n"
        "import torch\n"
        "assert import_torchvision('torchvision.models').resnet18\n"
        "assert sys.modules['torch._dynamo.utils'].__file__\n"
    )
