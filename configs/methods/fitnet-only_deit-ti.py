# FitNet's feature loss alone, DeiT-Ti. Without KD the labels train both heads,
# or the distillation head would not be trained. Teacher: MAE ViT-B/16, 83.50
# top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = './fitnet_deit-ti.py'

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
