"""The contract of `tomtat.store.base.Store` as tests, for our stores and anybody's.

    pytest --pyargs tomtat.store.conformance --store package.module:Subject

`subject.py` says what a `Subject` is; a store with nothing but `new_place` and `open` can be tested.
"""
