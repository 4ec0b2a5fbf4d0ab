# KD of the logits on 5 labels per class of the digits.
# Top-1: table of tools/ablate.py, see ../README.md.
_base_ = '../quickstart/serkd.py'

model = dict(
    distiller=dict(
        connectors=dict(_delete_=True),
        distill_losses=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.distill_losses.loss_kd,
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.loss_forward_mappings.loss_kd,
        ),
    )
)
