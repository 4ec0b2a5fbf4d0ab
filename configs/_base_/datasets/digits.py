# Handwritten digits from scikit-learn, 32x32 pixels. The training set here is
# the small labelled one of the students, 5 images per class, repeated so that
# an epoch has 1,000 images.
data_preprocessor = dict(
    type='ClsDataPreprocessor',
    num_classes=10,
    mean=[78.0, 78.0, 78.0],
    std=[92.0, 92.0, 92.0],
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=3),
    dict(type='Rotate', angle=12.0, prob=0.8, random_negative_prob=0.5),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=25,
    num_workers=0,
    dataset=dict(
        type='RepeatDataset',
        times=20,
        dataset=dict(
            type='Digits',
            split='train',
            samples_per_class=5,
            pipeline=train_pipeline,
        ),
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)

val_dataloader = dict(
    batch_size=240,
    num_workers=0,
    dataset=dict(
        type='Digits', split='val', pipeline=[dict(type='PackInputs')]
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='Accuracy', topk=(1,))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
