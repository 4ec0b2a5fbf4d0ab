# Relations of all 64 visual tokens. Raw tokens, without clustering and so
# without norm. ResNet-56 to a ViT of 6 layers, CIFAR-10, 5,000 labelled
# images. 100 epochs, 1 GPU x 128 images. Top-1: 73.39 ± 0.43 (three seeds,
# bfloat16 on a CPU); on a GPU not run.
_base_ = './serkd.py'

model = dict(
    distiller=dict(
        connectors=dict(
            _delete_=True,
            student_tokens=dict(type='VisualTokens', num_prefix_tokens=2),
            teacher_tokens=dict(type='VisualTokens', num_prefix_tokens=0),
        ),
        loss_forward_mappings=dict(
            loss_distance=dict(
                preds_S=dict(connector='student_tokens', connector_idx=0),
                preds_T=dict(connector='teacher_tokens', connector_idx=0),
            ),
            loss_angle=dict(
                preds_S=dict(connector='student_tokens', connector_idx=0),
                preds_T=dict(connector='teacher_tokens', connector_idx=0),
            ),
        ),
    )
)
