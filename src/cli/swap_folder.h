/* Where the swap files of containers go that were given none. */
#pragma once

/* $XDG_CACHE_HOME/membox, else $HOME/.cache/membox; 0 and *ret_path (the caller frees it), -ENOENT (neither is known), -ENOMEM. */
int swap_folder_path(char **ret_path);
