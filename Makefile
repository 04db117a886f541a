# Short names for what workbook.py does.
.PHONY: check test demo
check test demo:
	python3 workbook.py $@
