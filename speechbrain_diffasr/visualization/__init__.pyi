from .page import write_page as write_page
from .terminal import CanvasView as CanvasView
from .trace import Recorder as Recorder
from .trace import explain as explain
