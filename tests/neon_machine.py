"""An emulated AArch64 processor for what kernels/cpu emits: 16-byte vectors, 32 registers.

LLVM compiles for any processor on any other; Unicorn then runs the instructions.  What is run is
one function without calls and constants in memory, so that nothing has to be linked.

`emit_for_neon` comes before the first import of the kernels, which ask for the widths once.
"""

import re

import numpy as np
from llvmlite import binding, ir
from numba.core.registry import cpu_target

TRIPLE = "aarch64-unknown-linux-gnu"
INT = ir.IntType(64)

#: Where code, its arguments and its stack lie, and what it may touch of arrays.
CODE, WORDS, STACK, ARRAYS = 0x10000, 0x20000, 0x40000, 0x100000
PAGE = 0x10000


def emit_for_neon():
    """Lets the kernels believe that Numba compiles for AArch64.

    They can still be compiled for x86, and run: its vectors of 16 bytes do the same.
    """
    codegen = cpu_target.target_context.codegen()
    compiled_for = codegen.magic_tuple
    codegen.magic_tuple = lambda: (TRIPLE, "generic", "+neon")
    from gradroute.kernels.cpu.emitted import pixel_tile, vectors

    assert vectors.TARGET == (16, 32), "they were imported before"
    codegen.magic_tuple = compiled_for
    pixel_tile._REGISTER = "x"  # of x86: the name goes into its assembly


class Function:
    """A function of 64-bit words, emitted by ``emit(builder, words)`` and compiled."""

    def __init__(self, count, emit):
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        machine = binding.Target.from_triple(TRIPLE).create_target_machine(
            cpu="generic", features="+neon", opt=3, reloc="static")  # fmt: skip
        module = ir.Module()
        module.triple, module.data_layout = TRIPLE, str(machine.target_data)
        kind = ir.FunctionType(ir.VoidType(), [INT.as_pointer()])
        function = ir.Function(module, kind, "emitted")
        builder = ir.IRBuilder(function.append_basic_block())
        at = function.args[0]
        emit(builder, [builder.load(builder.gep(at, [INT(i)])) for i in range(count)])
        builder.ret_void()
        compiled = binding.parse_assembly(str(module))
        self.assembly = machine.emit_assembly(compiled)
        sections = binding.ObjectFileRef.from_data(machine.emit_object(compiled)).sections()
        found = {section.name(): section.data() for section in sections}
        assert b".rela.text" not in found, "it refers to something else"
        self.code = found[b".text"]

    def loop(self):
        """The instructions of the longest stretch between a label and the branch back to it."""
        found = []
        for label in re.findall(r"^(\.L\w+):", self.assembly, re.MULTILINE):
            body = re.search(rf"^{re.escape(label)}:(.*?)\bb\.\w+\s+{re.escape(label)}\b",
                             self.assembly, re.MULTILINE | re.DOTALL)  # fmt: skip
            if body and not re.search(r"^\.L\w+:", body[1], re.MULTILINE):
                found.append([line.split("//")[0].strip() for line in body[1].splitlines()])
        return [line for line in max(found, key=len) if line]

    def __call__(self, *arguments):
        """Runs it; arrays are given as addresses, and come back as they then are."""
        import unicorn
        from unicorn import arm64_const as arm

        machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        machine.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # vectors are allowed
        words, places, at = [], [], ARRAYS
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                size = -(-argument.nbytes // PAGE) * PAGE
                machine.mem_map(at, size)
                start = at + size - argument.nbytes  # ends with its pages: no byte behind is there
                machine.mem_write(start, argument.tobytes())
                places.append((argument, start))
                words.append(start)
                at += size + PAGE
            else:
                words.append(argument)
        for place, data in ((CODE, self.code), (WORDS, np.array(words, "int64").tobytes())):
            machine.mem_map(place, PAGE)
            machine.mem_write(place, data)
        machine.mem_map(STACK, PAGE)
        machine.reg_write(arm.UC_ARM64_REG_SP, STACK + PAGE)
        machine.reg_write(arm.UC_ARM64_REG_X0, WORDS)
        end = CODE + PAGE - 4
        machine.reg_write(arm.UC_ARM64_REG_LR, end)
        machine.emu_start(CODE, end)
        return [np.frombuffer(machine.mem_read(start, array.nbytes), array.dtype)
                .reshape(array.shape) for array, start in places]  # fmt: skip
