# SPDX-License-Identifier: LGPL-2.1-or-later
# fish completion for virtsnap(1): the client itself says what fits.

function __virtsnap_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] complete -- $words[2..-1] 2>/dev/null)
    if test "$found[1]" = :files
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $found
    end
end

complete -c virtsnap -f -a '(__virtsnap_complete)'
