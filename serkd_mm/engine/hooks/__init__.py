# Copyright (c) The serkd_mm authors. All rights reserved.
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .broken_images_hook import BrokenImagesHook
from .exact_resume_hook import ExactResumeHook
from .export_student_hook import ExportStudentHook
from .log_transfer_hook import LogTransferHook
from .non_finite_hook import NonFiniteHook
from .progress_hook import ProgressHook
from .run_record_hook import RunRecordHook
from .stop_on_signal_hook import StopOnSignalHook
from .superpixel_vis_hook import SuperpixelVisHook
from .teacher_check_hook import TeacherCheckHook
from .throughput_hook import ThroughputHook

__all__ = [
    'AtomicCheckpointHook',
    'BrokenImagesHook',
    'ExactResumeHook',
    'ExportStudentHook',
    'LogTransferHook',
    'NonFiniteHook',
    'ProgressHook',
    'RunRecordHook',
    'StopOnSignalHook',
    'SuperpixelVisHook',
    'TeacherCheckHook',
    'ThroughputHook',
]
