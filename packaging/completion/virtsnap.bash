# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for virtsnap(1): the client itself says what fits.

# Takes a line apart as bash would, into `words`, of which the last is being typed; it is in the quotes of `quote`, if any,
# and of it readline leaves `cut` alone. Nothing is expanded. Not bash's own words: it breaks them at ":" and "=", and leaves
# their quotes.
_virtsnap_words() {
    local line=$1 word="" begun="" opened="" char next
    local -i at
    words=() quote="" cut=""
    for ((at = 0; at < ${#line}; at++)); do
        char=${line:at:1} next=${line:at+1:1}
        case $quote$char in
            "''" | '""') quote="" ;;
            "'"? | \"[!\\]) word+=$char ;;
            '"\')
                [[ $next == ['"$`\'] || -z $next ]] || word+=$char
                word+=$next at+=1
                ;;
            '\') word+=$next begun=1 at+=1 ;;
            "'" | '"') quote=$char opened=$word begun=1 ;;
            [[:space:]])
                [[ -z $begun ]] || words+=("$word")
                word="" begun="" cut=""
                ;;
            *)
                # "@" goes with what follows it, if a word is broken there.
                [[ $char != @ || $COMP_WORDBREAKS != *@* ]] || cut=$word
                [[ $char$next == \$[\'\"] ]] || word+=$char
                [[ $char == @ || $COMP_WORDBREAKS != *"$char"* ]] || cut=$word
                begun=1
                ;;
        esac
    done
    words+=("$word")
    [[ -z $quote ]] || cut=$opened
}

# Writes `name` as it stands inside the quotes of `quote`, or outside any; these readline closes, if it sees none at the end.
_virtsnap_quoted() {
    local char
    case $quote in
        "'") name=${name//"'"/"'\\''"} ;;
        '"')
            for char in '\' '"' '$' '`'; do
                name=${name//"$char"/"\\$char"}
            done
            name=${name//"!"/"\"'!'\""}
            ;;
        *) printf -v name %q "$name" ;;
    esac
    [[ -z $quote || $name != *"$quote" ]] || name+=$quote
}

_virtsnap() {
    local quote cut name
    local -a words found=()
    _virtsnap_words "${COMP_LINE:0:COMP_POINT}"
    mapfile -t found < <("${words[0]}" complete -- "${words[@]:1}" 2>/dev/null)
    if [[ ${found[0]-} == :files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "${words[-1]}")
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
        return
    fi
    COMPREPLY=()
    for name in "${found[@]}"; do
        name=${name%%$'\t'*}
        name=${name#"$cut"}
        _virtsnap_quoted
        COMPREPLY+=("$name")
    done
}

complete -F _virtsnap virtsnap
