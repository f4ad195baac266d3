# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for virtsnap(1): the client itself says what fits.

_virtsnap() {
    local cut="" line=${COMP_LINE:0:COMP_POINT}
    local -a words=() found=()
    # Not bash's own words: it breaks them at ":" and "=", which names and options have in them.
    read -a words <<<"$line"
    if [[ -z $line || $line == *[[:space:]] ]]; then
        words+=("")
    fi
    mapfile -t found < <("${words[0]}" complete -- "${words[@]:1}" 2>/dev/null)
    if [[ ${found[0]-} == :files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
        return
    fi
    # Of a word that bash has broken it replaces the last piece only.
    local breaks="" current=${words[-1]}
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=:
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+==
    [[ -n $breaks ]] && cut=${current%"${current##*[$breaks]}"}
    COMPREPLY=()
    for line in "${found[@]}"; do
        line=${line%%$'\t'*}
        printf -v line %q "${line#"$cut"}"
        COMPREPLY+=("$line")
    done
}

complete -F _virtsnap virtsnap
