# SeRKD-S, exported by tools/export_student.py, fine-tuned on CIFAR-10
# at 224 px. 1000 epochs, 8 GPUs x 96 images.
# Top-1: 99.2 (paper, Table IV), not run.
_base_ = [
    '../../_base_/models/transfer_deit-small.py',
    '../../_base_/datasets/cifar10_bs96_224.py',
    '../../_base_/schedules/transfer_sgd_bs768_1000e.py',
    '../../_base_/default_runtime.py',
]
