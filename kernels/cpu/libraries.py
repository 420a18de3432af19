"""One optimisation and one emission of machine code for a kernel, whatever it is made of.

Numba gives every function a library of its own, which it optimises in full and turns into machine
code, before it links it into its callers' and does all that again: the tile of a matrix product
went through LLVM six times, and what came out of the first five was never run.  Here helpers, and
the functions that Numba makes of a kernel's parallel loops, are parts: kept as they were written
until the kernel that they belong to, the whole, is complete.

Numba's way in is the argument ``pipeline_class`` of ``numba.njit``, a compiler class.
"""

from __future__ import annotations

import numpy as np
from llvmlite.binding import Linkage
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.environment import lookup_environment

from gradroute.errors import WorkspaceError

#: More than a kernel was seen to take while it is compiled: 160 MiB for the first, 64 for others.
COMPILING_BYTES = 256 * 1024 * 1024


class _Parts:
    """Numba's code generator, but for the libraries that it creates."""

    def __init__(self, codegen):
        self._codegen = codegen

    def __getattr__(self, name):
        return getattr(self._codegen, name)

    def create_library(self, name):
        return _Part(self, name)

    def set_env(self, name, environment):
        """A part has no memory of its own for it: the whole has."""


class _Part(JITCodeLibrary):
    """Code that is neither optimised nor run by itself."""

    def finalize(self):
        self._raise_if_finalized()
        _reload(self)
        self._finalized = True

    def get_pointer_to_function(self, name):
        return 0

    def _get_module_for_linking(self):
        """All of it, for a library of Numba's own."""
        if self._shared_module is None:
            self._ensure_finalized()
            module = self._final_module.clone()
            _link(module, self._linking_libraries)
            _declare(module, self._final_module, "linkonce_odr")  # as Numba has it
            self._shared_module = module
        return self._shared_module


class _Whole(JITCodeLibrary):
    """A kernel's library."""

    def finalize(self):
        _reload(self)
        _link(self._final_module, self._linking_libraries)
        self._linking_libraries = []
        super().finalize()
        for variable in self._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                self._codegen.set_env(variable.name, environment)


def _reload(library):
    """What the libraries that ``library`` takes in do when they are loaded, it does from now on.

    Numba 0.61 knows of no such things to do.
    """
    if hasattr(library, "_reload_init"):
        library._reload_init.update(*(part._reload_init for part in library._linking_libraries))


def _link(module, libraries):
    """Links all that these libraries need into ``module``, each once."""
    parts, others, waiting = {}, {}, list(libraries)
    while waiting:
        library = waiting.pop()
        if not isinstance(library, _Part):
            others[library] = None
        elif library not in parts:
            parts[library] = None
            waiting += library._linking_libraries
    for part in parts:
        module.link_in(part._final_module, preserve=True)
    for library in others:  # last: LLVM takes of them only what is asked for by then
        module.link_in(library._get_module_for_linking(), preserve=True)
    for part in parts:  # nobody else calls them: a function with one caller is best inlined
        _declare(module, part._final_module, "internal")


def _declare(module, part, linkage):
    """Gives ``module``'s functions that came from ``part`` a linkage."""
    for function in part.functions:
        if not function.is_declaration and function.linkage == Linkage.external:
            module.get_function(function.name).linkage = linkage


class PartCompiler(Compiler):
    """Compiles a helper."""

    def compile_extra(self, func):
        codegen = self.state.targetctx.codegen()
        self.state.library = _Part(_Parts(codegen), func.__qualname__)
        return super().compile_extra(func)


class WholeCompiler(Compiler):
    """Compiles a kernel, and the functions that its parallel loops become."""

    def compile_extra(self, func):
        _ask_for_memory(func.__name__)
        target = self.state.targetctx
        codegen = target.codegen()
        self.state.library = _Whole(codegen, func.__qualname__)
        self.state.library.enable_object_caching()
        self.state.targetctx = target.subtarget(_internal_codegen=_Parts(codegen))
        return super().compile_extra(func)


def _ask_for_memory(name):
    """LLVM ends the process when it runs out of memory: ask for what it may need first."""
    try:
        np.empty(COMPILING_BYTES, np.uint8)
    except MemoryError:
        raise WorkspaceError(
            f"compiling the kernel {name} takes up to {COMPILING_BYTES >> 20} MiB: there is not "
            "that much memory; `gradroute warmup` compiles all kernels beforehand"
        ) from None
