// Shows in a page that is opened, or connects again, what its notebook's cells have printed meanwhile and go on printing.
//
// The server keeps the outputs (lab_server/outputs.py). JupyterLab loads this file as it is, by the interface that its
// built extensions have (module federation: init and get), so that no JavaScript build is needed.

(() => {
  const NAME = 'pytorch-jupyter';
  const RECENT = 200; // messages: more than arrive while the server answers
  let scope;

  const shared = async name => (await Object.values(scope[name])[0].get())();

  // A cell that has ended: JupyterLab takes a new execution count for the end, so it comes last.
  function finish({ cell, count }) {
    cell.model.executionCount = count;
    cell.model.executionState = 'idle';
  }

  // Apply one of the kernel's messages to its cell; true when it was the last one for this execution.
  function apply(execution, { header, content }) {
    const { outputs } = execution.cell.model;
    const { transient, ...output } = content;
    switch (header.msg_type) {
      case 'stream':
      case 'display_data':
      case 'execute_result':
      case 'error':
        outputs.add({ output_type: header.msg_type, ...output });
        break;
      case 'clear_output':
        outputs.clear(content.wait);
        break;
      case 'execute_input':
        execution.count = content.execution_count;
        break;
      case 'status':
        if (content.execution_state === 'idle') {
          finish(execution);
          return true;
        }
    }
    return false;
  }

  // Show what was kept; return the executions by the request that their messages name.
  function restore(panel, kept) {
    const known = new Map();
    for (const { request, session, cell_id, outputs, count, running, until } of kept) {
      const cell = panel.content.widgets.find(each => each.model.id === cell_id);
      if (!cell?.model.outputs) continue;
      cell.model.trusted = true;
      cell.model.outputs.fromJSON(outputs);
      const execution = { cell, session, count, until };
      if (running) cell.model.executionState = 'running';
      else finish(execution);
      known.set(request, execution);
    }
    return known;
  }

  // Whether the server had applied a message already when it answered.
  const isKept = ({ header }, { until }) => header.date.slice(0, 26) <= until;

  // A panel's newest messages, and what shows them beside JupyterLab.
  const watched = new WeakMap();

  // Listen to a panel's kernel from now on, and to that one only.
  function watch(panel, kernel) {
    if (watched.get(panel)?.kernel === kernel) return;
    watched.get(panel)?.stop();
    const state = { kernel, recent: [], show: () => {} };
    const listener = (_, message) => {
      state.recent.push(message);
      if (state.recent.length > RECENT) state.recent.shift();
      state.show(message);
    };
    kernel.iopubMessage.connect(listener);
    state.stop = () => kernel.iopubMessage.disconnect(listener);
    watched.set(panel, state);
  }

  // Bring a page that has just connected, or connected again, up to date: a broken connection may have lost messages.
  async function catchUp(panel, kernel, { ServerConnection, URLExt }) {
    await panel.context.ready;
    const { serverSettings } = kernel;
    const url = URLExt.join(serverSettings.baseUrl, 'lab-outputs', kernel.id);
    const response = await ServerConnection.makeRequest(url, {}, serverSettings);
    const state = watched.get(panel);
    if (!response.ok || state.kernel !== kernel) return;
    const known = restore(panel, await response.json());
    state.show = message => {
      const request = message.parent_header.msg_id;
      const found = known.get(request);
      if (!found || found.cell.isDisposed || isKept(message, found)) return;
      if (apply(found, message)) known.delete(request);
    };
    state.recent.forEach(state.show);
    // What this page has asked for itself, JupyterLab goes on showing: all but what is on its way and shown already.
    for (const [request, execution] of known) {
      if (execution.session !== kernel.clientId) continue;
      kernel.registerMessageHook(request, message => !isKept(message, execution));
      known.delete(request);
    }
  }

  async function plugin() {
    const { INotebookTracker } = await shared('@jupyterlab/notebook');
    const { ServerConnection } = await shared('@jupyterlab/services');
    const { URLExt } = await shared('@jupyterlab/coreutils');
    return {
      id: `${NAME}:outputs`,
      autoStart: true,
      requires: [INotebookTracker],
      activate: (_, tracker) => {
        tracker.widgetAdded.connect((_, panel) => {
          const { sessionContext } = panel;
          const look = () => {
            const kernel = sessionContext.session?.kernel;
            if (!kernel) return;
            watch(panel, kernel);
            if (kernel.connectionStatus === 'connected') catchUp(panel, kernel, { ServerConnection, URLExt });
          };
          sessionContext.kernelChanged.connect(look);
          sessionContext.connectionStatusChanged.connect(look);
          look();
        });
      }
    };
  }

  const container = {
    init: given => void (scope = given),
    get: async () => {
      const found = await plugin();
      return () => ({ __esModule: true, default: found });
    }
  };
  (globalThis._JUPYTERLAB ??= {})[NAME] = container;
})();
