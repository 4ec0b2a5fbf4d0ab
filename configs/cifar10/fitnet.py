# KD and FitNet's feature loss. ResNet-56 to a ViT of 6 layers, CIFAR-10, 5,000
# labelled images. 100 epochs, 1 GPU x 128 images. Top-1: 72.47 ± 0.51
# (three seeds, bfloat16 on a CPU); on a GPU not run.
_base_ = './serkd.py'

model = dict(
    distiller=dict(
        connectors=dict(
            _delete_=True,
            student_tokens=dict(type='VisualTokens', num_prefix_tokens=2),
            teacher_tokens=dict(type='VisualTokens', num_prefix_tokens=0),
        ),
        distill_losses=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.distill_losses.loss_kd,
            loss_feature=_base_.model.distiller.distill_losses.loss_feature,
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.loss_forward_mappings.loss_kd,
            loss_feature=(
                _base_.model.distiller.loss_forward_mappings.loss_feature
            ),
        ),
    )
)
