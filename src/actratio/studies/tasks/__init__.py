"""The study of tasks: does A = F·√N hold for all classification tasks?"""

from actratio.studies.tasks.study import TasksStudy

__all__ = ["TasksStudy"]
