# FitNet's feature loss alone. Without KD the labels train both heads.
# ResNet-56 to a ViT of 6 layers, CIFAR-10, 5,000 labelled images. 100 epochs,
# 1 GPU x 128 images. Top-1: 71.42 ± 0.43 (three seeds, bfloat16 on a CPU); on
# a GPU not run.
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
