# FitNet's feature loss alone on 5 labels per class of the digits. Without KD
# the labels train both heads.
# Teacher: ViT of 4 layers (quickstart/teacher.py), 97.08 top-1.
# 40 epochs, 1 process x 25 images. Top-1: 86.20 ± 1.41 with 2 labels per
# class (measured, 5 seeds, study digits), 91.91 ± 0.95 with 5
# (study digits-5).
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
