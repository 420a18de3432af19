# Sourced by the other scripts here, from the checkout's root: makes .venv with the package in it.
#
#     python_of_checkout            sets $python to one that is new enough
#     install test                  .venv with `pip install -e .[test]`; quick where nothing changed
#     need_compiler                 stops, naming the install command, where C++ cannot be compiled

stop() {
    printf '%s: %s\n' "${0#./}" "$*" >&2
    exit 2
}

python_of_checkout() {
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null ||
        stop "no $python here. Debian, Ubuntu: sudo apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "$("$python" --version) is too old, 3.11 or newer is needed: PYTHON=python3.12 $0"
}

# A new virtual environment in folder $1.
make_environment() {
    python_of_checkout
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "Python's venv is missing. Debian, Ubuntu: sudo apt-get install python3-venv"
    "$python" -m venv --clear "$1"
}

# The package, editable, with the extras $1, in .venv.  What was installed is written beside it, so
# that a second run does not ask the package index again.
install() {
    python_of_checkout
    local stamp=".venv/installed-$1" wanted
    wanted="$("$python" -VV) $PWD $(cksum <pyproject.toml)"
    if [ ! -x .venv/bin/python ] ||
        [ "$(cat .venv/python 2>/dev/null)" != "$("$python" -VV)" ]; then
        make_environment .venv
        "$python" -VV >.venv/python
    fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing gradroute[$1] into .venv ..."
        .venv/bin/python -m pip install -qq --disable-pip-version-check -e ".[$1]" ||
            stop "pip could not install gradroute[$1]"
        printf '%s\n' "$wanted" >"$stamp"
    fi
}

# The CUDA kernels are tested by running them as C++ (tests/cuda_on_cpu).
need_compiler() {
    local compiler=${CXX:-g++}
    local how="sudo apt-get install g++ (Debian, Ubuntu), or sudo dnf install gcc-c++ (Fedora)"
    command -v "$compiler" >/dev/null || stop "no C++ compiler ($compiler) here: $how"
    echo '#include <vector>' | "$compiler" -x c++ -fsyntax-only - 2>/dev/null ||
        stop "$compiler finds no C++ headers: $how"
}
