"""A folder to start from: a recipe, a study, a training and a task for models that the user names.

`find_family` opens their headers, `write_project` writes the folder. The last thing before the pages: uses weights,
merging, tasks and the formats of evolution and training; `genepool init` calls it.
"""

from genepool.projects.family import Family, Member, find_family
from genepool.projects.folder import Project, write_project

__all__ = ["Family", "Member", "Project", "find_family", "write_project"]
