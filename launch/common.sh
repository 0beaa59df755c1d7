# shellcheck shell=bash
# What the scripts of this folder share; they source it before they do anything.
#
#   --help      prints the comment at the head of the script
#   --dry_run   prints the commands, quoted so that they can be pasted, and does nothing
#
# Everything else among a script's arguments is the training command's: "$@" afterwards.

dry_run=""
for word in "$@"; do
    shift
    case $word in
    --dry_run) dry_run=yes ;;
    --help)
        awk 'NR > 1 && !/^#( |$)/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
        exit 0
        ;;
    *) set -- "$@" "$word" ;;
    esac
done

# say TEXT: to a person, not to a pipe; in a dry run a comment among the commands.
say() {
    if [[ $dry_run ]]; then echo "# $*"; else echo "== $*" >&2; fi
}

# fail TEXT: a mistake, in a line.
fail() {
    echo "error: $*" >&2
    exit 2
}

# quoted WORD...: the words as a shell reads them.
quoted() {
    local line
    # Of no words at all, %q would make an empty one.
    (($#)) || return 0
    line=$(printf '%q ' "$@")
    echo "${line% }"
}

# run COMMAND...: run it; in a dry run print it.
run() {
    if [[ $dry_run ]]; then quoted "$@"; else "$@"; fi
}

# last COMMAND...: the same, in place of the script: signals go to it, and its exit code is the script's.
last() {
    if [[ $dry_run ]]; then quoted "$@"; else exec "$@"; fi
}

# in_checkout: go to the root of the checkout, in a dry run in words.
in_checkout() {
    cd "$1" || exit
    if [[ $dry_run ]]; then quoted cd "$PWD"; fi
}

# install EXTRA: the checkout, into the .venv that is there.
install() {
    # PYTHONWARNINGS: setuptools warns of every editable install, at length
    run env PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$1]"
}
