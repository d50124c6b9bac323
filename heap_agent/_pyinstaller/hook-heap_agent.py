"""
What PyInstaller does not see in the imports: the Event Visualizer's page.
"""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("heap_agent", includes=["_view/page.html"])
