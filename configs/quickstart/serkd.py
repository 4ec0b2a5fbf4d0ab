# The student of student.py, same data and budget, with SeRKD from the teacher
# of teacher.py. Top-1: the table that tools/quickstart.sh prints.
_base_ = [
    '../_base_/models/serkd_vit-digits.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/quickstart.py',
    '../_base_/default_runtime.py',
]
