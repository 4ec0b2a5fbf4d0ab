# DeiT's hard distillation on 5 labels per class of the digits. Weights as in
# DeiT.
# Top-1: table of tools/ablate.py, see ../README.md.
_base_ = '../quickstart/serkd.py'

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    distiller=dict(
        connectors=dict(_delete_=True),
        distill_losses=dict(
            _delete_=True,
            loss_kd=dict(type='HardDistillLoss', loss_weight=0.5),
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.loss_forward_mappings.loss_kd,
        ),
    ),
)
