#!/bin/bash
# A batch on the nodes of a Slurm allocation: Ray is started on each, and the batch on the first.
# Nothing is shared but the store; what was made before the time was over is not made again by the next one.
#SBATCH --job-name=convert
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0
export CONVERT_NODE_FOLDER="${SLURM_TMPDIR:-/tmp}/convert-node"
port=6379
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | awk '{print $1}')

srun --nodes=1 --ntasks=1 --nodelist="$first" --overlap \
    ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
sleep 20
srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$first" --overlap \
    ray start --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 20

export RAY_ADDRESS="$address:$port"
convert batch nightly.yaml --out "$SLURM_SUBMIT_DIR/out" --engine auto --store s3://bucket/convert --node-cache 200GB --keep report &
batch=$!
trap 'kill -TERM "$batch"; wait "$batch"' TERM # two minutes before the end: what runs is cleared, what is made stays
wait "$batch"
