# SPDX-License-Identifier: LGPL-2.1-or-later
# fish completion for virtsnap(1): the client itself says what fits.

function __virtsnap_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    # Those before come without their quotes, the one that is being typed does not; nor can a "\" at its end be taken for one.
    set -l current (string unescape -- $typed; or string unescape -- (string sub --end -1 -- $typed))
    set -l found ($words[1] complete -- $words[2..-1] "$current" 2>/dev/null)
    if test "$found[1]" = :files
        __fish_complete_path $typed
    else
        printf '%s\n' $found
    end
end

complete -c virtsnap -f -a '(__virtsnap_complete)'
