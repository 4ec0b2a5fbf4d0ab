# SeRKD-S, exported by tools/export_student.py, fine-tuned on Stanford Cars
# at 224 px. 1000 epochs, 8 GPUs x 96 images.
# Top-1: 94.1 (paper, Table IV), not run.
_base_ = [
    '../../_base_/models/transfer_deit-small.py',
    '../../_base_/datasets/stanford-cars_bs96_224.py',
    '../../_base_/schedules/transfer_sgd_bs768_1000e.py',
    '../../_base_/default_runtime.py',
]

model = dict(head=dict(num_classes=196))
