"""Every backend exports exactly what kernels/contract.py says."""

import ast
import importlib
import inspect
import pathlib
import types

import pytest

from gradroute import dispatch, geometry
from gradroute.kernels import contract

MODULES = [(folder, module) for folder in dispatch.FOLDERS.values() for module in contract.KERNELS]


def _folder(name):
    return pathlib.Path(inspect.getfile(contract)).parent / name


@pytest.fixture
def package(backend):
    return dispatch.load(backend)


@pytest.mark.parametrize("module", contract.KERNELS)
def test_a_backend_has_every_kernel_with_the_contract_s_signature(package, module):
    kernels = getattr(package, module)
    for written in contract.KERNELS[module]:
        kernel = getattr(kernels, written.__name__)
        assert inspect.signature(kernel) == inspect.signature(written), written.__name__


@pytest.mark.parametrize("module", contract.KERNELS)
def test_a_backend_has_no_kernel_that_the_contract_does_not_name(package, module):
    kernels = getattr(package, module)
    public = {
        name
        for name, value in vars(kernels).items()
        if isinstance(value, types.FunctionType)
        and value.__module__ == kernels.__name__
        and list(inspect.signature(value).parameters)[-2:] == ["plan", "workspace"]
        and not name.startswith("_")
    }
    assert public <= {written.__name__ for written in contract.KERNELS[module]}


def test_a_backend_plans_what_it_will_run(package, backend):
    sizes = geometry.conv_geometry(
        (2, 3, 8, 9), (4, 3, 3, 3), stride=1, padding=1, dilation=1, groups=1
    )
    from gradroute import config

    plan = package.plan("conv_forward", sizes, "float32", config.current())
    assert isinstance(plan, contract.Plan)
    assert plan.backend == backend and plan.operation == "conv_forward" and plan.algorithm
    assert list(inspect.signature(package.plan).parameters) == [
        "operation", "geometry", "dtype", "settings"]  # fmt: skip
    assert list(inspect.signature(package.workspace).parameters) == ["plan"]
    scratch = package.workspace(plan)
    assert scratch is None if plan.workspace_bytes == 0 else scratch.nbytes >= plan.workspace_bytes


def test_every_kernel_of_the_contract_is_listed_once():
    listed = [kernel.__name__ for kernels in contract.KERNELS.values() for kernel in kernels]
    written = [
        name
        for name, value in vars(contract).items()
        if isinstance(value, types.FunctionType) and value.__module__ == contract.__name__
        and name not in ("dataclass", "field")
    ]  # fmt: skip
    assert sorted(listed) == sorted(written)
    assert all(list(inspect.signature(getattr(contract, name)).parameters)[-2:]
               == ["plan", "workspace"] for name in listed)  # fmt: skip


def _imports(path):
    """The modules that a file names in its imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from ("." * node.level + alias.name for alias in node.names if not node.module)


@pytest.mark.parametrize("folder", ["cpu", "cuda"])
def test_no_fast_backend_reads_the_reference(folder):
    for path in _folder(folder).rglob("*.py"):
        assert not [name for name in _imports(path) if "reference" in name], path.name


def test_no_matrix_product_of_the_cpu_backend_is_numpys():
    for path in _folder("cpu").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            operator = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
            name = node.attr if isinstance(node, ast.Attribute) else None
            assert not operator and name not in ("dot", "matmul", "einsum", "tensordot", "vdot"), (
                f"{path.name}:{node.lineno}"
            )


def test_one_module_of_the_cpu_backend_compiles():
    """njit, jit and prange are decided in jit.py; the others only import from there."""
    for path in _folder("cpu").rglob("*.py"):
        if path.name != "jit.py":
            names = [
                alias.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.ImportFrom) and node.module == "numba"
                for alias in node.names
            ]
            assert not {"njit", "jit", "vectorize", "guvectorize"} & set(names), path.name


def test_every_backend_folder_can_be_named():
    for name, folder in dispatch.FOLDERS.items():
        assert _folder(folder).is_dir(), name
    assert importlib.import_module("gradroute.kernels.reference").plan is not None
