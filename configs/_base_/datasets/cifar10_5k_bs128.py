# One tenth of CIFAR-10's training images, 5,000, chosen by train_dataloader.
# dataset.seed: a fold of ten.
_base_ = './cifar10_bs128.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='KFoldDataset',
        num_splits=10,
        fold=0,
        # The fold itself, not the other nine.
        test_mode=True,
        seed=0,
        dataset=dict(
            type='CIFAR10',
            data_root='data/cifar10',
            split='train',
            pipeline=_base_.train_pipeline,
        ),
    )
)
