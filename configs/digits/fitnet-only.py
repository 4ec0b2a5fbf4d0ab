# FitNet's feature loss alone on 5 labels per class of the digits. Without KD
# the labels train both heads.
# Top-1: table of tools/ablate.py, see ../README.md.
_base_ = './fitnet.py'

model = dict(
    architecture=dict(head=dict(label_dist_head=True)),
    distiller=dict(
        distill_losses=dict(
            _delete_=True,
            loss_feature=_base_.model.distiller.distill_losses.loss_feature,
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_feature=(
                _base_.model.distiller.loss_forward_mappings.loss_feature
            ),
        ),
    ),
)
