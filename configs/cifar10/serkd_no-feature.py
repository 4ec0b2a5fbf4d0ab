# SeRKD without the feature loss. ResNet-56 to a ViT of 6 layers, CIFAR-10,
# 5,000 labelled images. 100 epochs, 1 GPU x 128 images. Top-1: 67.46 ± 0.25
# (three seeds, bfloat16 on a CPU); on a GPU not run.
_base_ = './serkd.py'

model = dict(
    distiller=dict(
        connectors=dict(
            _delete_=True,
            student_superpixels=(
                _base_.model.distiller.connectors.student_superpixels
            ),
            teacher_superpixels=(
                _base_.model.distiller.connectors.teacher_superpixels
            ),
        ),
        distill_losses=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.distill_losses.loss_kd,
            loss_distance=_base_.model.distiller.distill_losses.loss_distance,
            loss_angle=_base_.model.distiller.distill_losses.loss_angle,
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.loss_forward_mappings.loss_kd,
            loss_distance=(
                _base_.model.distiller.loss_forward_mappings.loss_distance
            ),
            loss_angle=_base_.model.distiller.loss_forward_mappings.loss_angle,
        ),
    )
)
