#!/bin/bash
# Train one model on two machines of a SLURM cluster, with four processes each.
#
#     sbatch examples/distributed.sh
#
# torchrun starts the processes of a machine and restarts them if one is killed; the fit then
# resumes from its checkpoint, which lies where all machines see it.
#SBATCH --job-name=acluster
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
set -euo pipefail

FOLDER=${FOLDER:-$HOME/acluster}
PROCESSES=${PROCESSES:-4}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Without this variable, torchrun 2.13 may give the addresses of killed processes to new ones.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / PROCESSES))

srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$PROCESSES" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    examples/distributed.py "$FOLDER"
