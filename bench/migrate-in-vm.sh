#!/bin/bash
# In a machine with two nodes: migrate-in-vm.sh MEMBOX HOLD_MEMORY SIZE_MB PAIRS [BUSY]. Moves a program's memory from node 0 to node 1, with migratepages and with
# membox in turn; prints for each move the tool, microseconds, and the pages on nodes 0 and 1 then. BUSY: so many other programs use the processor.
membox=$1 program=$2 size=$3 pairs=$4
export MEMBOX_RUNTIME_DIR=/run/membox
mkdir -m 700 -p $MEMBOX_RUNTIME_DIR

now() { echo "${EPOCHREALTIME/./}"; }

nodes() {
	local line a=0 b=0
	while read -r line; do
		[[ $line =~ \ N0=([0-9]+) ]] && a=$((a + BASH_REMATCH[1]))
		[[ $line =~ \ N1=([0-9]+) ]] && b=$((b + BASH_REMATCH[1]))
	done <<<"$(grep anon= /proc/"$1"/numa_maps)"
	echo "$a $b"
}

# one TOOL COMMAND...: the program, and what moves it; its process id is $pid. On the processor of node 0: its memory is to be there.
one() {
	local tool=$1 began ended
	shift
	rm -f /tmp/in; : >/tmp/out
	mkfifo /tmp/in
	if [ "$tool" = membox ]; then
		$membox run --name bench --limit 2G --swap /tmp/swap -- taskset 1 "$program" "$size" </tmp/in >/tmp/out &
	else
		taskset 1 "$program" "$size" </tmp/in >/tmp/out &
	fi
	local job=$!
	exec 9>/tmp/in
	until grep -q ready /tmp/out; do sleep 0.05; done
	pid=$(pidof hold-memory)
	began=$(now)
	"$@" $pid >/tmp/said 2>&1 || cat /tmp/said
	ended=$(now)
	echo "$tool $((ended - began)) $(nodes "$pid")"
	exec 9>&-
	wait $job
}

migratepages_of() { migratepages "$1" 0 1; }
membox_of() { $membox migrate bench --to-node 1 --json; }

for ((i = 0; i < ${5:-0}; i++)); do
	while :; do :; done &
done
for ((i = 0; i < pairs; i++)); do
	one migratepages migratepages_of
	one membox membox_of
done
kill $(jobs -p) 2>/dev/null
exit 0
