#!/usr/bin/env bash
# Edit many photographs: a list of lines "IMAGE<tab>TEXT", one run directory each, so that several of these scripts can
# work at once and a stopped one goes on where it was. Further flags go to every edit.
#
#     docs/batch.sh edits.tsv results --model sd15 --eta 0.6:0.8:0.05 --seeds 8
#
# Leaves results/0001.txt with the paths of the images of the first line, and so on, of several images also that of their
# contact sheet at the end, and results/failed.tsv with the exit code of each edit that failed. Blank lines are passed over,
# and counted.
set -uo pipefail
list=${1:?usage: batch.sh LIST FOLDER [FLAGS]}
folder=${2:?usage: batch.sh LIST FOLDER [FLAGS]}
shift 2
mkdir -p "$folder"
: >"$folder/failed.tsv"

number=0
while IFS=$'\t' read -r image text || [ -n "$image" ]; do
    number=$((number + 1))
    # Lists that come from Windows end their lines with a carriage return as well.
    text=${text%$'\r'} image=${image%$'\r'}
    [ -n "$image$text" ] || continue
    run=$(printf '%s/%04d' "$folder" "$number")
    # Standard input is the list: the command must not read it.
    imagic edit "$image" "$text" --run "$run" --quiet "$@" </dev/null >"$run.txt"
    code=$?
    case $code in
        0) ;;
        130 | 143) exit "$code" ;; # stopped: the same call goes on
        *) printf '%s\t%s\t%s\n' "$code" "$image" "$text" >>"$folder/failed.tsv" ;;
    esac
done <"$list"
[ ! -s "$folder/failed.tsv" ]
