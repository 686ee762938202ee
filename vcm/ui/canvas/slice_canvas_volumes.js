// Voxels on the wire: gzipped bytes that are fetched by URL, and sent back as an upload.

class VolumeError extends Error {}

// Published names are made of their content, so a URL never changes its voxels and can be kept.
const KEPT_VOLUMES = 16;
const keptVolumes = new Map(); // url -> Promise<Uint8Array>

// The voxels behind a URL: exactly `length` bytes, or a VolumeError whose message is a sentence for the user.
function loadVolume(url, length) {
  const key = `${length} ${url}`;
  let pending = keptVolumes.get(key);
  if (!pending) {
    pending = fetchVolume(url, length);
    pending.catch(() => keptVolumes.delete(key));
  }
  keptVolumes.delete(key);
  keptVolumes.set(key, pending);
  if (keptVolumes.size > KEPT_VOLUMES) keptVolumes.delete(keptVolumes.keys().next().value);
  return pending;
}

async function fetchVolume(url, length) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new VolumeError("The volume could not be fetched: the server does not answer.");
  }
  if (!response.ok || !response.body) {
    throw new VolumeError(`The volume could not be fetched: the server answered ${response.status}.`);
  }
  const packed = new Uint8Array(await response.arrayBuffer());
  const isGzip = packed[0] === 0x1f && packed[1] === 0x8b; // else a proxy has already unpacked it
  try {
    const stream = new Blob([packed]).stream();
    return await readExactly(isGzip ? stream.pipeThrough(new DecompressionStream("gzip")) : stream, length);
  } catch (error) {
    if (error instanceof VolumeError) throw error;
    throw new VolumeError("The volume could not be decoded: it arrived damaged.");
  }
}

async function readExactly(stream, length) {
  const voxels = new Uint8Array(length);
  const reader = stream.getReader();
  let filled = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length > length) {
      reader.cancel().catch(() => {});
      throw new VolumeError("The volume could not be decoded: it is larger than its grid.");
    }
    voxels.set(value, filled);
    filled += value.length;
  }
  if (filled < length) throw new VolumeError("The volume could not be decoded: it is smaller than its grid.");
  return voxels;
}

async function packVolume(voxels, name) {
  const packed = await new Response(new Blob([voxels]).stream().pipeThrough(new CompressionStream("gzip"))).blob();
  return new File([packed], name, { type: "application/gzip" });
}

// Sends the drawing a moment after the last change: one upload at a time, always of the newest voxels.
class DrawingSender {
  constructor({ read, upload, onSent, onState }) {
    Object.assign(this, { read, upload, onSent, onState });
    this.delayMs = 250;
    this.changed = false;
    this.epoch = 0;
    this.timer = 0;
    this.running = null;
  }

  schedule() {
    this.changed = true;
    this.onState("waiting");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), this.delayMs);
  }

  // What is on its way is no longer wanted: Python has replaced the drawing.
  forget() {
    clearTimeout(this.timer);
    this.changed = false;
    this.epoch++;
  }

  // Resolves when the newest voxels have reached the server (or the attempt has failed).
  flush() {
    clearTimeout(this.timer);
    this.running = this.running || this.run().finally(() => (this.running = null));
    return this.running;
  }

  async run() {
    while (this.changed) {
      this.changed = false;
      const epoch = this.epoch;
      this.onState("sending");
      try {
        const file = await this.upload(await packVolume(this.read(), "drawing.u8.gz"));
        if (epoch !== this.epoch) continue;
        this.onSent(file);
        if (!this.changed) this.onState("sent");
      } catch {
        if (epoch !== this.epoch) continue;
        this.changed = true;
        this.onState("failed");
        return;
      }
    }
  }
}
