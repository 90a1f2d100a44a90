"""The job directory of `segue job` and `segue watch`; ../JOBDIR.md has the contract."""
