// The drawing as this browser keeps it, so that it outlives a reload of the page and a restart of the server.

const KEPT_MS = 24 * 3600 * 1000; // a forgotten drawing does not stay on a shared computer for good
const KEEP_DELAY_MS = 150;

class DrawingKeeper {
  // `read` returns {grid, voxels} of the drawing as it stands.
  constructor(name, read) {
    this.key = `vcm-studio drawing ${location.pathname} ${name}`;
    this.read = read;
    this.timer = 0;
    this.saves = 0; // of two saves that overlap only the later one may write
  }

  schedule() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), KEEP_DELAY_MS);
  }

  async save() {
    const save = ++this.saves;
    const { grid, voxels } = this.read();
    const url = await toDataUrl(await packVolume(voxels, "drawing.u8.gz"));
    if (save !== this.saves) return;
    const kept = { shape: grid.shape, affine: grid.affine, savedAt: Date.now(), url };
    try {
      localStorage.setItem(this.key, JSON.stringify(kept));
    } catch {
      this.forget(); // full, or not allowed here: nothing is kept rather than something old
    }
  }

  // The voxels that are kept for this grid, or null.
  async load(grid) {
    try {
      const kept = JSON.parse(localStorage.getItem(this.key));
      if (!kept || !(Date.now() - kept.savedAt < KEPT_MS)) return null;
      if (!new Grid(kept.shape, kept.affine).equals(grid)) return null; // of another model
      return await loadVolume(kept.url, grid.length);
    } catch {
      return null;
    }
  }

  forget() {
    clearTimeout(this.timer);
    this.saves++;
    try {
      localStorage.removeItem(this.key);
    } catch {
      // where nothing may be stored, nothing is
    }
  }
}

function toDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
